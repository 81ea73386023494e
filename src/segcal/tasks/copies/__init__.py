"""What a network says of photometric copies of each image: made here, or read from predictions of copies.

ranges        how far copies differ from the image
segmenters    networks as callables on their input
making        means, spreads and the first few scores, a file a case
"""
