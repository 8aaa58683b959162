-- Reference: functions of pb itself that are not about models. Tensors' methods: tensor.lua.
return {
  { name = "pb", summary = 'What `local pb = require "patchbay"` gives. Unknown names in it raise; nothing in it can be changed.',
    text = [[
Coordinates are 0-based everywhere: layer, head, position, neuron, token id, every tensor index; negative ones count from the
end. Only Lua lists (of tokens, patches, labels) are 1-based. Functions take one table of named arguments; unknown names in
it raise. Functions that fail raise, with the recipe's line.

A recipe runs in a sandbox (a guard rail, not a wall): base functions, coroutine, table, string, math, utf8 and os.time, clock,
date, difftime; no io, debug, bytecode or __gc; a limit of memory (--memory) and time (--time). --trust lifts it.

pb.seed: the number of --seed (0). pb.null: JSON's null. The order of pairs() over names differs from run to run (Lua seeds its
hash); math.random, pb.randn and all noise do not.]] },

  { name = "pb.tensor", signature = 'pb.tensor(elements [, "int32"]) -> tensor', summary = "A tensor from nested lists of numbers (or a scalar from a number).",
    text = "Lists along one axis must have equal lengths, else an error names the axis.", example = "pb.tensor { { 1, 2, 3 }, { 4, 5, 6 } }  -- [2, 3]" },
  { name = "pb.zeros", signature = "pb.zeros(n, m, ...) -> tensor", summary = "Zeros; lengths as numbers or as one list." },
  { name = "pb.ones", signature = "pb.ones(n, m, ...) -> tensor", summary = "Ones; lengths as numbers or as one list." },
  { name = "pb.full", signature = "pb.full(value, n, m, ...) -> tensor", summary = "One value everywhere: the value, then the lengths." },
  { name = "pb.arange", signature = "pb.arange(stop) or pb.arange(start, stop [, step]) -> tensor", summary = "start, start + step, ... up to but not including stop, [n]." },
  { name = "pb.randn", signature = "pb.randn { n, m, ..., seed =, draw = } -> tensor", summary = "Standard normal numbers of the counter-based generator.",
    text = [[
An element depends on (seed, draw, its flat index) alone: not on the machine, the threads or what was drawn before. Philox
4x32-10 and Box-Muller, written down in include/patchbay/rng.h. seed: default pb.seed. draw: which of the seed's sequences;
without it, every call takes the next one that no number of yours can name.]],
    example = "local noise = pb.randn { 5, 64, seed = 1, draw = 0 } * 0.1" },
  { name = "pb.rand", signature = "pb.rand { n, m, ..., seed =, draw = } -> tensor", summary = "Uniform numbers in [0, 1); otherwise as pb.randn." },
  { name = "pb.stack", signature = "pb.stack(list of tensors [, axis]) -> tensor", summary = "Tensors of one shape along a new axis, 0 by default." },
  { name = "pb.concat", signature = "pb.concat(list of tensors [, axis]) -> tensor", summary = "Tensors joined along an axis that they have, 0 by default." },

  { name = "pb.params", signature = "pb.params { name = default, ... } -> table", summary = "A recipe's parameters: defaults, and what the command line says instead.",
    text = [[
patchbay run recipe.lua name=value. The default's type says how a value is read: a number (an integer where the default is one),
text, true or false, or a list (items by commas, of the kind of the default's first item). A name that the recipe does not have is
an error that lists those it has; reading one from the result is, too. May be called once.]],
    example = 'local arg = pb.params { model = "facts", n = 100, layers = { 0, 1, 2 } }   -- ... n=20 layers=3,4' },

  { name = "pb.read", signature = "pb.read(file) -> data", summary = "Read a file by its ending: .safetensors, .pt, .bin, .npy, .csv, .json, .jsonl, .txt, .md.",
    text = [[
.safetensors: a table of names and tensors (floats of any width as float32, integers as int32). Float32 and int32 lie in the mapped
file and cost memory only where they are changed, which the file never is. .pt, .pth, .bin: the same of a state dict that torch.save
wrote; nothing in it is executed. .npy: a tensor. .csv: a list of
rows, each a table by the names of the first line (numbers where a field is one and was not quoted), and the list of names.
.json: a value; .jsonl: a list of values; null is pb.null. .txt, .md: the text.

Where: relative to the recipe's folder, then to the output folder, then to the current one; a recipe may read in its own folder,
its output folder and folders given with --read DIR (anywhere with --trust).]],
    example = 'local expected = pb.read "expected.safetensors"\nprint(expected.logits)' },
  { name = "pb.write", signature = "pb.write(file, data [, options])", summary = "Write a file by its ending: .safetensors, .npy, .csv, .json, .jsonl, .txt.",
    text = [[
.safetensors: a table of names and tensors; options.metadata: a table of texts. .npy: a tensor. .csv: a tensor, one row per element
(options.axes: names of the columns, options.labels: per axis a list of texts or false), or a list of rows (options.columns: which,
and their order; by name otherwise). .json, .jsonl: tables, numbers, texts, booleans, pb.null, tensors; keys are sorted. .txt: text.

Where: inside the output folder: -o DIR, by default RECIPE.out in the current folder; folders in the name are made. The file
appears whole or not at all. Names with '..', absolute names and symbolic links are refused.]],
    example = 'pb.write("effects.csv", grid.values, { axes = { "layer", "head" } })' },

  { name = "pb.help", signature = "pb.help([name])", summary = "Print a page of this reference, or the list of names, as `patchbay help` does." },

  { name = "patchbay.check", summary = 'require "patchbay.check": tests in Lua, run by `patchbay test FILE or FOLDER ...`.',
    text = [[
check.test(name, fn) runs fn; an error in it is a failure. In fn: check.eq(got, wanted), check.close(got, wanted, tolerance) for
numbers, tensors and lists, check.ok(condition), check.raises(fn, text, ...) for errors that contain the texts, check.skip(reason).
check.recipe { text = "...", memory =, time =, params =, seed = } runs a recipe in a state of its own and gives { ok, status,
message, printed, seconds }. check.exhaust(fn) makes every allocation of fn fail once.]],
    example = [[
local check = require "patchbay.check"
check.test("a sum", function() check.close(pb.tensor({ 1, 2 }):sum(), 3) end)]] },
}
