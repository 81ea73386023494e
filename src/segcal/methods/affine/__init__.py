"""TODO methods/affine"""
