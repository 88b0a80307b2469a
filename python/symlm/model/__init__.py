"""MODEL arguments: finding, reading and checking what they name.

resolve    a run, a checkpoint, a folder of transformers or a GGUF file as one kind of thing
foreign    folders and files that other programs made
tokenizer  reading tokenizer.json
tensors    weights in safetensors, read and written without computing
facts      what a file says about where its model comes from
gguf       GGUF files, read and written
"""
