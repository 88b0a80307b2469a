"""From paths to token ids.

corpus  the built-in corpus, the sources of a run, its tokenizer and shards
opening  texts and files of objects, as they are given
table_reader  a script that takes the rows out of Parquet and Arrow
survey  what training will see of a text, counted and compared
begins  texts that write out the token that begins every text
"""
