"""What only a CUDA card can show: `just test-gpu`, on a machine that has one."""

import torch

CARD = torch.device("cuda")
