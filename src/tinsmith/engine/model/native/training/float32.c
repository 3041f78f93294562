// What training computes of layers whose numbers are float32.
#include "../float32.h"

#define NAMED(name) name

#include "attention.h"
#include "layers.h"
