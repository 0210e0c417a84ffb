"""Images with what people say of them, made into shards of frames to train on."""
