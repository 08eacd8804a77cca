"""Writing what leaves the host: ONNX files and the bundle. Import the modules, not the package."""
