"""TODO methods/conditional"""
