"""Text and logits from a model.

generator    `Generator`
pickling     tokenizers and generators for other processes
samples      several texts behind one prompt, together
text_stream  bytes of tokens as whole characters, up to a stop string
"""
