-- Learned position embeddings (gpt2) that begin so that a head can attend to the token before: train.positions. In them neighbours differ:
-- sines and cosines whose fastest turn takes two tokens, so that "one back" is one linear map and sharp within a single layer; heads of
-- the first layer can begin as that map. Heads of the next layer then learn sooner to match a word with the one before each earlier word
-- and copy what followed it: induction heads (Elhage et al. 2021). Everything is trained further, as every weight.
local pb = require "patchbay"
local sinusoids = require "patchbay.initial".sinusoids

-- Queries are as many of the sines and cosines as a head has room for, keys the same one token further: their product is largest
-- one back.
local function previous_token(c_attn, d, width, head, turn, s)
  local quarter = d // 4
  local room = math.min(width // 2, quarter)
  for j = 0, room - 1 do
    local i = j * quarter // room
    local angle, q = turn(i), head * width + 2 * j
    local k = d + q
    c_attn:set(i, q, s)
    c_attn:set(quarter + i, q + 1, s)
    c_attn:set(i, k, s * math.cos(angle))
    c_attn:set(quarter + i, k, s * math.sin(angle))
    c_attn:set(i, k + 1, -s * math.sin(angle))
    c_attn:set(quarter + i, k + 1, s * math.cos(angle))
  end
end

-- positions(config, weights [, { amplitude = 0.3, slowest = 0.05, heads = 2, strength = 1 }]) -> weights, changed in place.
return function(config, weights, given)
  local o = pb.options(given, { amplitude = 0.3, slowest = 0.05, heads = 2, strength = 1.0 }, "train.positions")
  local wpe, c_attn = weights["transformer.wpe.weight"], weights["transformer.h.0.attn.c_attn.weight"]
  if not wpe or not c_attn then pb.fail "train.positions is for gpt2: position embeddings that are learned" end
  local d, quarter = config.n_embd, config.n_embd // 4
  if quarter < 2 then pb.fail("train.positions needs a width of 8 or more, got %d", d) end
  if o.heads > config.n_head then pb.fail("train.positions: %d heads of the %d that a layer has", o.heads, config.n_head) end
  -- the angle by which dimension i turns with each token: a geometric row from half a turn down to `slowest` of it
  local function turn(i) return math.pi * o.slowest ^ (i / (quarter - 1)) end
  weights["transformer.wpe.weight"] = sinusoids(config.n_positions, d, o.amplitude, turn)
  for head = 0, o.heads - 1 do previous_token(c_attn, d, d // config.n_head, head, turn, o.strength) end
  return weights
end
