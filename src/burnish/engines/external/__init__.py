"""Engines in a process of their own: llama.cpp, ONNX Runtime GenAI, OpenVINO GenAI."""
