-- What a probe learns from: activations of prompts with labels, folds for cross-validation, and the labels of a control task (Hewitt
-- and Liang 2019). patchbay.probe is made of this.
local pb = require "patchbay"

local examples = {}

-- Folds dealt class by class in a seeded order, so that every class is in every fold as evenly as its size allows. Both prompts of a pair
-- are in one fold: they are equal but for the label, and a probe that saw one would be sure to be wrong about the other.
function examples.folds(list, labels, folds, seed)
  local order, fold, at, of_pair = pb.rand { #labels, seed = seed, draw = 0 }:argsort():tolist(), {}, {}, {}
  for _, i in ipairs(order) do
    local row = math.tointeger(i) + 1
    local pair, class = list[row].i, labels[row]
    if not of_pair[pair] then
      at[class] = (at[class] or class) + 1
      of_pair[pair] = at[class] % folds + 1
    end
    fold[row] = of_pair[pair]
  end
  return fold
end

-- Examples { run, i, label } and their classes; prompts whose label no other has are left out: nothing could learn it.
function examples.of(set, o, name)
  local all, count, list, classes, index = {}, {}, {}, {}, {}
  local function add(i, side)
    local pair = set[i]
    local answer = side == "clean" and pair.answer or pair.wrong
    local label = type(o.label) == "function" and o.label(pair, i, side) or o.label == "answer" and (answer or {})[1] or (pair.info or {})[o.label]
    if label == nil then pb.fail("%s: pair %d has no %s: label is \"answer\", a field of the pairs' info, or a function(pair, i, side)", name, i, tostring(o.label)) end
    all[#all + 1], count[label] = { run = pair[side], i = i, label = label }, (count[label] or 0) + 1
  end
  for i = 1, #set do
    if o.side ~= "corrupt" then add(i, "clean") end
    if o.side ~= "clean" then add(i, "corrupt") end
  end
  for _, example in ipairs(all) do
    if count[example.label] > 1 then
      if not index[example.label] then classes[#classes + 1], index[example.label] = example.label, #classes + 1 end
      example.class, list[#list + 1] = index[example.label], example
    end
  end
  if #classes < 2 then pb.fail("%s: %d of %d prompts share their label with another, in %d classes: at least two classes are needed", name, #list, #all, #classes) end
  return list, classes, #all - #list
end

-- The activation of an example at a position (the mean over the tokens of a named one): [d].
function examples.vector(set, example, o, layer, pos)
  local at = type(pos) == "string" and set:position(pos, example.i) or pos
  local value = example.run[{ site = o.site, layer = layer, pos = at }]
  return value:contiguous():reshape { value.shape[1], value.count // value.shape[1] }:mean(0)
end

local function tokens_at(set, example, pos)
  local at, text = type(pos) == "string" and set:position(pos, example.i) or pos, {}
  for _, p in ipairs(type(at) == "table" and at or { at }) do text[#text + 1] = example.run.tokens[(p < 0 and p + #example.run or p) + 1] end
  return table.concat(text, " ")
end

-- A control task: every kind of token at the position gets a label by lot, in the proportions of the real ones.
function examples.control(set, list, labels, pos, seed)
  local draw, given, out, n = pb.rand { #labels, seed = seed, draw = 1 }:tolist(), {}, {}, 0
  for i, example in ipairs(list) do
    local kind = tokens_at(set, example, pos)
    if not given[kind] then n, given[kind] = n + 1, labels[math.min(#labels, math.floor(draw[n + 1] * #labels) + 1)] end
    out[i] = given[kind]
  end
  return out
end

return examples
