-- Is this head an induction head? Words said twice: which heads look back to what followed the first time, which heads tell them where
-- to look, and is that a cause or only a look?        patchbay run examples/induction.lua [words=... model=...]
local pb = require "patchbay"
local heads, data = require "patchbay.heads", require "patchbay.data"
local arg = pb.params { model = "facts", words = "induction", seed = 1, n = 20 } -- words: a task whose words are said twice; words=any for another model
local model = pb.load(arg.model)

local words = arg.words ~= "any" and data.pairs(model, arg.words, { quiet = true }) or nil
local found = heads.induction(model, { seed = arg.seed, n = arg.n, tokens = words, bos = true })
if #found.readers == 0 then
  print "no head attends to what followed an earlier occurrence"
  return
end
print(("a repeated word makes these heads look %d after where it was said first:"):format(found.offset))
for _, head in ipairs(found.scores.offset[found.offset]:top(#found.readers)) do
  print(("  head %d.%d, %.2f ± %.2f of its attention"):format(head.layer, head.head, head.value, head.se))
end

-- Path patching: spoil the first occurrence, then give back only what one head writes into one reader's keys.
print "of what is lost when the first occurrence is another word, one head brings back through one reader's keys:"
for i = 1, math.min(5, #found.links) do
  local link = found.links[i]
  print(("  %d.%d -> %d.%d  %+.3f ± %.3f"):format(link.previous.layer, link.previous.head, link.reader.layer, link.reader.head, link.recovered, link.se))
end
local last = found.links[#found.links]
print(("and the least, head %d.%d (attention to the token before: %.2f): %+.3f"):format(last.previous.layer, last.previous.head, last.previous.value, last.recovered))

pb.plot.panels { found.scores.previous:titled "to the token before", found.scores.offset[found.offset], found.effect:titled "through the keys (causal)" }:save "induction.png"
