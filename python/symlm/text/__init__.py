"""From paths to token ids.

corpus  the built-in corpus, the sources of a run, its tokenizer and shards
begins  texts that write out the token that begins every text
"""
