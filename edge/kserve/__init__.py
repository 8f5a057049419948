"""KServe's Open Inference Protocol v2: its JSON and binary bodies, and what stands in them."""
