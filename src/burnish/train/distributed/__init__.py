"""Training in several processes: process group, ZeRO, FSDP."""
