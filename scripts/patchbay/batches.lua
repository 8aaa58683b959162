-- What a step of training sees: packed batches in a new order for each pass over the data, and dropout as patches.
local pb = require "patchbay"
local records = require "patchbay.records"

local batches = {}

-- batches.packed(list of { tokens =, predict =, patches = } or of lists of ids, { tokens = 1536, seed = }) -> function(step): each pass
-- over the data in a new order, as many sequences to a batch as fit the number of tokens.
function batches.packed(sequences, given)
  local o = pb.options(given, { tokens = 1536, seed = pb.seed }, "train.batches")
  local list = {}
  for i, s in ipairs(sequences) do
    list[i] = s.tokens and s or { tokens = s }
    if #list[i].tokens > o.tokens then pb.fail("train.batches: sequence %d has %d tokens, a batch %d", i, #list[i].tokens, o.tokens) end
  end
  if #list == 0 then pb.fail "train.batches: there are no sequences" end
  local passes, first = {}, { 0 } -- passes[k]: the batches of pass k; first[k]: the step that it begins at
  local function pass(k)
    if not passes[k] then
      local list_of, current, room = {}, nil, 0
      for _, i in ipairs(records.shuffled(#list, o.seed, k)) do
        local n = #list[i].tokens
        if n > room then
          current, room = {}, o.tokens
          list_of[#list_of + 1] = current
        end
        current[#current + 1], room = list[i], room - n
      end
      passes[k], passes[k - 2] = list_of, nil
      first[k + 1] = first[k] + #list_of
    end
    return passes[k]
  end
  return function(step)
    local k = 1
    while true do
      if first[k + 1] == nil then pass(k) end
      if step < first[k + 1] then return pass(k)[step - first[k] + 1] end
      k = k + 1
    end
  end
end

-- Dropout where GPT-2 has it: on the embeddings, the patterns, and what attention and MLP write. One draw for each entry.
batches.DROPOUT_SITES = { { "resid_pre", 0 }, { "pattern" }, { "attn_out" }, { "mlp_out" } }

-- The sequences with dropout = { rate =, seed =, sites = } among their patches.
function batches.with_dropout(sequences, step, dropout, layers)
  local list = {}
  for i, s in ipairs(sequences) do
    local patches = {}
    for _, p in ipairs(s.patches or {}) do patches[#patches + 1] = p end
    for k, place in ipairs(dropout.sites) do
      for layer = place[2] or 0, place[2] or layers - 1 do
        local draw = (((step << 16) + i) * layers + layer) * #dropout.sites + k
        patches[#patches + 1] = { site = place[1], layer = layer, dropout = { rate = dropout.rate, seed = dropout.seed, draw = draw } }
      end
    end
    list[i] = { tokens = s.tokens, predict = s.predict, patches = patches }
  end
  return list
end

return batches
