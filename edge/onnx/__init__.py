"""onnxruntime and all that is computed around it. Runs inside the ONNX worker process."""
