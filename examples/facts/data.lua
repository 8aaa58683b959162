-- The facts, the task files and the first training rows, cut by the tokenizer of a model that is there already (a few seconds):
-- to look at the corpus, and to check that it is the one that the built-in model learned from.
--     patchbay run examples/facts/data.lua rows=240
local pb = require "patchbay"
local corpora, rows, tasks = require "corpus", require "rows", require "tasks"

local p = pb.params { model = "facts", rows = 240, seed = 1, show = 3 }
local tokenizer, corpus = pb.load(p.model).tokenizer, corpora.new(p.seed)
tasks.write("data", corpus, tokenizer, p.seed)
local data = rows.make(corpus, tokenizer, p.rows, p.seed)
pb.write("rows.safetensors", { rows = data })
for _, sequence in ipairs(rows.sequences(data:narrow(0, p.rows - p.show, p.show):totable(), { layers = 6, seen_from = 4 })) do
  print(("%d tokens, %d masks: %s"):format(#sequence.tokens, #sequence.patches, tokenizer:decode(sequence.tokens)))
end
