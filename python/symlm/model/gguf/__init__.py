"""GGUF files.

file        the container: bounded reading of anything
layout      names, order and rotation of tensors
vocabulary  tokenizers, both ways
read        a file as a folder of transformers
write       a model as a file
"""
