"""Text and logits from a model.

generator    `Generator`
pickling     tokenizers and generators for other processes
text_stream  bytes of tokens as whole characters, up to a stop string
"""
