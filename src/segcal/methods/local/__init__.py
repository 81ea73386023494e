"""TODO methods/local"""
