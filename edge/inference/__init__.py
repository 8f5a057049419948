"""Which ONNX models are loaded, and who waits for one."""
