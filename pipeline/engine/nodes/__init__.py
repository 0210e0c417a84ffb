"""The nodes of a run: what a worker is given of CPUs, GPUs and model files, where it is, and what Ray tells of it"""
