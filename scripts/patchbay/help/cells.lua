return {
  { name = "patchbay.cells", summary = "Cells of a sweep as a list, for patches that set:sweep has no words for: what techniques are made of.",
    text = [[
local cells = require "patchbay.cells"

A technique writes its cells (cells.over for coordinates, cells.named for a list with names), says which patches a cell means for a pair, and measures
all of them in one pass: the mean over pairs, with its standard error.]],
    example = [[local list = cells.over(set, { site = "z", over = { "layer", "head" } })
local grid = cells.measure(set, list, function(pair, cell)
  return { { site = "z", layer = cell.layer, head = cell.head, scale = 0.5 } }
end, { metric = "logit_diff", run = "clean" })]] },
  { name = "patchbay.cells.over", signature = "cells.over(set, { site =, over =, layer =, pos =, head =, neuron = }) -> list", summary = "Every combination of coordinates, the last axis fastest." },
  { name = "patchbay.cells.named", signature = "cells.named(list, axis) -> list", summary = "The entries of a list as cells of one axis, labelled by their names." },
  { name = "patchbay.cells.measure", signature = "cells.measure(set, list, function(pair, cell, i, draw) return patches end, options) -> grid", summary = "All cells of all pairs, in one pass.",
    text = "Options: metric; run, \"clean\" or \"corrupt\": what is patched; target, the same for grid.target; draws: variants of a cell whose mean counts; name, site, memory, dry." },
  { name = "patchbay.cells.patches", signature = "cells.patches(set, i, places, action) -> patches", summary = "Places with pair i's numbers for named positions, and what to put there." },
  { name = "patchbay.cells.positions", signature = "cells.positions(set, name) -> \"all\" or list of names", summary = "All positions where prompts have one length, else the names that every pair has." },
  { name = "patchbay.cells.same_length", signature = "cells.same_length(set) -> true or false", summary = "Whether all prompts of a set have the same number of tokens." },
  { name = "patchbay.cells.set", signature = "cells.set(set or { clean =, corrupt = }, name) -> set", summary = "A set from what techniques take as one." },
  { name = "patchbay.cells.unit", signature = "cells.unit(metric) -> text", summary = "What a metric's numbers are, in words." },
}
