/* What NVIDIA's bindings ask of libnvinfer, libnvonnxparser and libnvinfer_plugin (8.6: libnvparsers too) when they are loaded. */
#ifndef PLUGIN_ONLY
void *createInferBuilder_INTERNAL(void) { return 0; }
void *createInferRefitter_INTERNAL(void) { return 0; }
void *createInferRuntime_INTERNAL(void) { return 0; }
void *getBuilderPluginRegistry(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
#endif
int initLibNvInferPlugins(void) { return 0; }
#ifdef PARSERS /* of 8.6 alone; C++ names */
void *caffe(void) __asm__("_ZN14nvcaffeparser117createCaffeParserEv");
void *caffe_end(void) __asm__("_ZN14nvcaffeparser123shutdownProtobufLibraryEv");
void *uff(void) __asm__("_ZN11nvuffparser15createUffParserEv");
void *uff_map(void) __asm__("_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi");
void *caffe(void) { return 0; }
void *caffe_end(void) { return 0; }
void *uff(void) { return 0; }
void *uff_map(void) { return 0; }
#endif
