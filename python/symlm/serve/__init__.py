"""`symlm serve`: a model behind OpenAI's interface, and a page to try it.

server      the process: socket, signals, start and end
app         the routes
completions `/v1/completions`
chat        `/v1/chat/completions`
templates   the model's chat template, in its process
tokens      `/tokenize`, `/detokenize`, `/tokenizer_info`
forms       what a request asks for, read from its JSON and checked
fields      the values of a JSON object, taken out by type
problems    errors in OpenAI's form
prompts     text, ids and special tokens of the model that is served
scheduler   the engine's thread: sequences that wait, and those that are stepped
logprobs    logarithms of probabilities, of tokens that are drawn and of those of a prompt
writing     from tokens to pieces of text up to a stop text, with the place of each token
jobs        one request: its sequences from the first to the last token
answers     what is sent back
sse         server-sent events
body        reading a request, noticing that a client has left
security    hosts, origins, keys, headers
connection  limits of one connection
ending      what signals do: requests in hand are answered, or told that they are not
waiting     the queue: sequences without a slot
metrics     counters as Prometheus reads them
page        the page at `/`
"""
