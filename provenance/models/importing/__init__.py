"""Turns training runs as people keep them (`transformers`, `peft`) into model folders.

`run` finds what a folder holds, `weights` reads it through the libraries' own loading, `facts` and `clock` find how it was
trained, `framing` how sequences were framed, and `importing` writes the model folder. No pickle is read but weights-only.
"""
