"""Losses and accuracies of a model.

windows   whole windows side by side: the number of the contract
rolling   every token once, or each document alone
choices   multiple choice
scoring   log-likelihoods, on several threads
compress  compressors beside a model
"""
