"""Does a learned optimizer, untuned, train what PyTorch users train, as well as tuned optimizers do?

`problems.py` lists what is trained, `methods.py` the optimizers, `train.py` is one run, `sweep.py` chooses rates and
keeps every run in a file, `measures.py` and `report.py` say what came out.
"""
