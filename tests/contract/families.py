"""The zoo's families, each by its smallest network; what every family has to go through takes them from here."""

SMALLEST = {
    "cifar_resnet": "resnet8",
    "wideresnet": "wrn-10-1",
    "preact_resnet": "preactresnet18",
    "resnet": "resnet18",
    "mobilenetv2": "mobilenetv2",
    "distiller_resnet": "distiller-resnet8",
    "vgg": "smallvgg",
    "cnn": "cnn3",
}
