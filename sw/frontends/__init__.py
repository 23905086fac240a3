"""ONNX and torch to the model representation."""
