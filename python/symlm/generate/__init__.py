"""Text and logits from a model.

generator    `Generator`
text_stream  bytes of tokens as whole characters, up to a stop string
"""
