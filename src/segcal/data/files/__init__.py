"""TODO data/files"""
