"""Conversations and the chat templates that write them out.

conversation  one conversation, from the forms in which people have them
template      which template is taken, its special tokens, the end of a turn
renderer      the process that runs a template, with limits on time and memory
worker        what that process does: it reads requests and answers them
sandbox       the Jinja environment of a template, as transformers sets it up
masks         what of a conversation is learnt
"""
