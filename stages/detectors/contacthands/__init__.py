"""ContactHands' hand boxes: a Faster R-CNN in plain torch, or by detectron2."""
