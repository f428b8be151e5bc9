"""How Ingot compares: with plain tools, with llama.cpp, with the machine, with what it promises.

Empty on purpose: the small processes that are measured import this package.
"""
