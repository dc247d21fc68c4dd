import os

import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"
torch.set_num_threads(1)
settings.register_profile("elman", deadline=None, derandomize=True)
settings.load_profile("elman")
