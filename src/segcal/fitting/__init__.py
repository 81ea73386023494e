"""TODO fitting"""
