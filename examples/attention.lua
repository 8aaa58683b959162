-- What do the heads that choose the name look at? Attention patterns as small multiples. A pattern says where a head reads,
-- not what that does: examples/heads.lua says which heads matter.
local pb = require "patchbay"
local model = pb.load "facts"
local run   = model:run "When Mary and John went to the store, John gave a drink to"
local heads = { { layer = 2, head = 3 }, { layer = 2, head = 2 }, { layer = 3, head = 2 }, { layer = 4, head = 3 } }

local names, again = run:find "Mary and John", run:find("John", { which = "last" }) -- lists of positions
for _, h in ipairs(heads) do
  local pattern = run:value("pattern", h.layer) -- [head, dest, src]
  print(("head %d.%d, from the last token: %.2f to the second '%s'"):format(h.layer, h.head, pattern:get(h.head, -1, again[1]), run.labels[again[1] + 1]))
end
pb.plot.attention(run, heads, { title = "Attention of four heads", mark = { names[1], names[#names], again[1] }, columns = 2 }):save "attention.png"
