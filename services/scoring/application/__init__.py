"""`maskfer live`: the paper's client (§6). It finds faces itself and sends only their crops to the service.

Knows the protocol and the detector; neither BentoML nor ONNX Runtime is needed where it runs.
"""
