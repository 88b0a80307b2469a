"""MODEL arguments: finding, reading and checking what they name.

resolve              a run, a checkpoint, a folder of transformers or PEFT, or a GGUF file as one kind of thing
files                the files of one model
foreign              folders and files that other programs made
companions           what stands beside a model: settings for generating, chat templates, special tokens
generation_settings  where each of these settings goes in every format
special_tokens       names of special tokens in transformers and in GGUF
peft                 an adapter folder and its base as one model
tokenizer            reading tokenizer.json
tensors              weights in safetensors, read and written without computing
facts                what a file says about where its model comes from
gguf                 GGUF files, read and written
"""
