-- Drawing pairs of prompts by lot: whole numbers from the recipe's generator, words that are one token, and n different pairs, each
-- checked. patchbay.tasks is made of this.
local pb = require "patchbay"

local draw = {}

-- Whole numbers from 1 to n, from the recipe's generator.
local function generator(seed)
  local block, at, number = {}, 0, 0
  return function(n)
    if at == #block then
      block, at, number = pb.rand { 256, seed = seed, draw = number }:tolist(), 0, number + 1
    end
    at = at + 1
    return math.min(n, math.floor(block[at] * n) + 1)
  end
end

-- The entries of a list that are one token with a space in front.
function draw.one_token(model, list, least, what)
  local kept = {}
  for _, word in ipairs(list) do
    if pcall(model.token, model, " " .. word) then kept[#kept + 1] = word end
  end
  if #kept < least then pb.fail("%s: only %d of %d words are one token of %s, and %d are needed", what, #kept, #list, model.name, least) end
  return kept
end

function draw.pick(random, list, but)
  while true do
    local word = list[random(#list)]
    local clash = false
    for _, other in ipairs(but or {}) do clash = clash or word:find(other, 1, true) == 1 or other:find(word, 1, true) == 1 end
    if not clash then return word end
  end
end

function draw.position(run, word, which)
  local found = run:find(word, { which = which })
  return found[#found]
end

-- n different pairs that pass: make(random) gives { clean, corrupt, answer, wrong } and a function of the clean run that gives the positions.
function draw.pairs(model, name, o, make)
  local random, list, locate, seen, reasons = generator(o.seed or pb.seed), {}, {}, {}, {}
  local misses, dropped = 0, 0
  while #list < o.n do
    if misses == 500 then
      pb.fail("tasks.%s: only %d different pairs of the %d could be made%s", name, #list, o.n, next(reasons) and " (" .. next(reasons) .. ")" or "")
    end
    misses = misses + 1
    local pair, where = make(random)
    local a, b = pair.clean, pair.corrupt
    a, b = type(a) == "string" and model:encode(a, { bos = o.bos }) or a, type(b) == "string" and model:encode(b, { bos = o.bos }) or b
    local key = table.concat(a, " ")
    if #a ~= #b then
      reasons["prompts of different length"], dropped = true, dropped + 1
    elseif model.max_positions > 0 and #a > model.max_positions then
      reasons["prompts longer than the model's positions"], dropped = true, dropped + 1
    elseif not seen[key] then
      seen[key], misses = true, 0
      list[#list + 1], locate[#list + 1] = pair, where
    end
  end
  if dropped > 0 then print(("tasks.%s: %d pairs dropped: %s"):format(name, dropped, next(reasons))) end
  local set = pb.pairs(model, list, { bos = o.bos })
  for i, pair in ipairs(list) do pair.positions, pair.clean, pair.corrupt = locate[i](set[i].clean), set[i].clean, set[i].corrupt end
  return pb.pairs(model, list)
end

return draw
