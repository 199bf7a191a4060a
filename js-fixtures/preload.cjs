'use strict';
// To be preloaded (`node -r preload.cjs PROGRAM`): leaves a mark for about.cjs. Prints nothing.

global.preloaded = 'preload.cjs';
