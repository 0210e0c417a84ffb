"""The data folder as a person sees and corrects it: a local web page over tables and shards."""
