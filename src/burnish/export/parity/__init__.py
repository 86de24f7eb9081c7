"""The parity gate: does the exported model answer like the trained one?"""
