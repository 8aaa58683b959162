/* The stack machine of pickle.h. Values are nodes in one growing array and refer to each other by index; a container's
 * items are a list of cells. Every opcode makes a bounded number of nodes and cells, so that time and memory are in
 * proportion to the pickle's length; nothing recurses, so that depth and cycles cost nothing. */
#include "tensor/pickle.h"

#include <string.h>

enum { PICKLE_MAX = 16 << 20, NONE = 0 /* the node that stands for None */ };

typedef enum value_kind {
    KIND_NONE,
    KIND_BOOL,
    KIND_INT,
    KIND_FLOAT,
    KIND_TEXT,
    KIND_BYTES,
    KIND_TUPLE,
    KIND_LIST,
    KIND_DICT,
    KIND_FUNCTION,
    KIND_STORAGE_TYPE,
    KIND_STORAGE,
    KIND_TENSOR
} value_kind;

typedef enum function { ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, REBUILD_PARAMETER_WITH_STATE } function;

typedef struct node {
    uint8_t kind;
    uint8_t type; /* KIND_STORAGE_TYPE, KIND_STORAGE: pb_stored; KIND_FUNCTION: which */
    uint32_t first, last,
        count;        /* containers: cells (first, last: 1 + index; 0: none); KIND_TENSOR: first: its place */
    int64_t number;   /* int, bool; storage: its number of elements */
    const char *text; /* text, bytes; storage: its key */
    size_t length;
} node;

typedef struct cell {
    uint32_t node, next; /* next: 1 + index */
} cell;

typedef struct machine {
    pb_context *ctx;
    const char *path;
    pb_error *err;
    const unsigned char *data;
    size_t size, at;
    node *nodes;
    size_t n_nodes, cap_nodes;
    cell *cells;
    size_t n_cells, cap_cells;
    uint32_t *stack;
    size_t n_stack, cap_stack;
    size_t *marks; /* heights of the stack */
    size_t n_marks, cap_marks;
    uint32_t *memo; /* 1 + node; 0: empty */
    size_t n_memo;
    pb_pickled *tensors;
    size_t n_tensors, cap_tensors;
} machine;

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static pb_status grow(machine *m, void *array, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity)
        return PB_OK;
    size_t more = *capacity ? 2 * *capacity : 64;
    while (more < needed)
        more *= 2;
    void *old, *grown;
    memcpy(&old, array, sizeof old); /* array: the address of a pointer of any type */
    grown = pb_realloc(m->ctx, old, more, size);
    if (!grown)
        return pb_fail_memory(m->err, m->ctx, more * size, "reading a pickle");
    memcpy(array, &grown, sizeof grown);
    *capacity = more;
    return PB_OK;
}

static pb_status wrong(machine *m, const char *what) {
    return pb_fail(m->err, PB_ERR_FORMAT, "%s: the pickle is damaged at byte %zu: %s", m->path, m->at, what);
}

/* A new node on the stack. */
static pb_status push(machine *m, node value) {
    PB_TRY(grow(m, &m->nodes, &m->cap_nodes, m->n_nodes + 1, sizeof *m->nodes));
    PB_TRY(grow(m, &m->stack, &m->cap_stack, m->n_stack + 1, sizeof *m->stack));
    m->nodes[m->n_nodes] = value;
    m->stack[m->n_stack++] = (uint32_t)m->n_nodes++;
    return PB_OK;
}

static pb_status push_again(machine *m, uint32_t index) {
    PB_TRY(grow(m, &m->stack, &m->cap_stack, m->n_stack + 1, sizeof *m->stack));
    m->stack[m->n_stack++] = index;
    return PB_OK;
}

static size_t floor_of(const machine *m) { return m->n_marks ? m->marks[m->n_marks - 1] : 0; }

static pb_status pop(machine *m, uint32_t *out) {
    if (m->n_stack <= floor_of(m))
        return wrong(m, "a value is missing from the stack");
    *out = m->stack[--m->n_stack];
    return PB_OK;
}

static pb_status append(machine *m, uint32_t container, uint32_t item) {
    PB_TRY(grow(m, &m->cells, &m->cap_cells, m->n_cells + 1, sizeof *m->cells));
    m->cells[m->n_cells++] = (cell){item, 0};
    node *c = &m->nodes[container];
    if (c->last)
        m->cells[c->last - 1].next = (uint32_t)m->n_cells;
    else
        c->first = (uint32_t)m->n_cells;
    c->last = (uint32_t)m->n_cells;
    c->count++;
    return PB_OK;
}

/* The n items of a tuple; false unless it is one with at least `least` and at most `most`. */
static bool items(const machine *m, uint32_t tuple, size_t least, size_t most, const node **out, size_t *n) {
    const node *t = &m->nodes[tuple];
    if (t->kind != KIND_TUPLE || t->count < least || t->count > most)
        return false;
    *n = 0;
    for (uint32_t c = t->first; c; c = m->cells[c - 1].next)
        out[(*n)++] = &m->nodes[m->cells[c - 1].node];
    return true;
}

/* ---- reading bytes -------------------------------------------------------------------------------------------------------- */

static pb_status take(machine *m, uint64_t count, const unsigned char **out) {
    if (count > m->size - m->at)
        return wrong(m, "it ends in the middle of a value");
    *out = m->data + m->at;
    m->at += (size_t)count;
    return PB_OK;
}

static pb_status take_number(machine *m, int bytes, uint64_t *out) {
    const unsigned char *at = NULL;
    PB_TRY(take(m, (uint64_t)bytes, &at));
    *out = 0;
    for (int i = bytes - 1; i >= 0; i--)
        *out = *out << 8 | at[i];
    return PB_OK;
}

static pb_status push_text(machine *m, value_kind kind, int length_bytes) {
    uint64_t length = 0;
    const unsigned char *text = NULL;
    PB_TRY(take_number(m, length_bytes, &length));
    PB_TRY(take(m, length, &text));
    return push(m, (node){.kind = (uint8_t)kind, .text = (const char *)text, .length = (size_t)length});
}

/* A whole number of so many bytes, two's complement. */
static pb_status push_long(machine *m, int length_bytes) {
    uint64_t length = 0, value = 0;
    const unsigned char *at = NULL;
    PB_TRY(take_number(m, length_bytes, &length));
    if (length > 8)
        return wrong(m, "a whole number has more than 64 bits");
    PB_TRY(take(m, length, &at));
    for (size_t i = 0; i < 8; i++) {
        uint64_t byte = i < length ? at[i] : length && at[length - 1] & 0x80u ? 0xffu : 0u;
        value |= byte << (8 * i);
    }
    return push(m, (node){.kind = KIND_INT, .number = (int64_t)value});
}

/* ---- names ------------------------------------------------------------------------------------------------------------------ */

static bool same(const char *text, size_t length, const char *word) {
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static pb_status push_global(machine *m, const char *module, size_t module_length, const char *name, size_t length) {
    static const struct {
        const char *module, *name;
        uint8_t kind, type;
    } known[] = {
        {"collections", "OrderedDict", KIND_FUNCTION, ORDERED_DICT},
        {"torch._utils", "_rebuild_tensor_v2", KIND_FUNCTION, REBUILD_TENSOR},
        {"torch._utils", "_rebuild_parameter", KIND_FUNCTION, REBUILD_PARAMETER},
        {"torch._utils", "_rebuild_parameter_with_state", KIND_FUNCTION, REBUILD_PARAMETER_WITH_STATE},
        {"torch", "FloatStorage", KIND_STORAGE_TYPE, PB_STORED_F32},
        {"torch", "HalfStorage", KIND_STORAGE_TYPE, PB_STORED_F16},
        {"torch", "BFloat16Storage", KIND_STORAGE_TYPE, PB_STORED_BF16},
        {"torch", "DoubleStorage", KIND_STORAGE_TYPE, PB_STORED_F64},
        {"torch", "LongStorage", KIND_STORAGE_TYPE, PB_STORED_I64},
        {"torch", "IntStorage", KIND_STORAGE_TYPE, PB_STORED_I32},
        {"torch", "ShortStorage", KIND_STORAGE_TYPE, PB_STORED_I16},
        {"torch", "CharStorage", KIND_STORAGE_TYPE, PB_STORED_I8},
        {"torch", "ByteStorage", KIND_STORAGE_TYPE, PB_STORED_U8},
        {"torch", "BoolStorage", KIND_STORAGE_TYPE, PB_STORED_BOOL},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (same(module, module_length, known[i].module) && same(name, length, known[i].name))
            return push(m, (node){.kind = known[i].kind, .type = known[i].type});
    }
    return pb_fail(m->err, PB_ERR_UNSUPPORTED,
                   "%s: the pickle asks for '%.*s.%.*s'; only what rebuilds tensors is understood, and nothing is ever "
                   "executed. A plain state dict has no such name: save model.state_dict(), or safetensors",
                   m->path, module_length > 100 ? 100 : (int)module_length, module, length > 100 ? 100 : (int)length,
                   name);
}

static pb_status take_line(machine *m, const char **out, size_t *length) {
    const unsigned char *begin = m->data + m->at, *end = memchr(begin, '\n', m->size - m->at);
    if (!end)
        return wrong(m, "a name has no end");
    *out = (const char *)begin;
    *length = (size_t)(end - begin);
    m->at += *length + 1;
    return PB_OK;
}

static pb_status global_by_lines(machine *m) {
    const char *module = NULL, *name = NULL;
    size_t module_length = 0, length = 0;
    PB_TRY(take_line(m, &module, &module_length));
    PB_TRY(take_line(m, &name, &length));
    return push_global(m, module, module_length, name, length);
}

static pb_status global_by_stack(machine *m) {
    uint32_t name = NONE, module = NONE;
    PB_TRY(pop(m, &name));
    PB_TRY(pop(m, &module));
    const node *a = &m->nodes[module], *b = &m->nodes[name];
    if (a->kind != KIND_TEXT || b->kind != KIND_TEXT)
        return wrong(m, "a function's name is no text");
    return push_global(m, a->text, a->length, b->text, b->length);
}

/* ---- what the functions would do ---------------------------------------------------------------------------------------------- */

/* ('storage', type, key, location, number of elements) */
static pb_status load_persistent(machine *m) {
    uint32_t id = NONE;
    const node *part[5];
    size_t n;
    PB_TRY(pop(m, &id));
    if (!items(m, id, 5, 5, part, &n) || part[0]->kind != KIND_TEXT ||
        !same(part[0]->text, part[0]->length, "storage") || part[1]->kind != KIND_STORAGE_TYPE ||
        part[2]->kind != KIND_TEXT || part[4]->kind != KIND_INT || part[4]->number < 0)
        return wrong(m, "it refers to something outside that is no storage");
    return push(m, (node){.kind = KIND_STORAGE,
                          .type = part[1]->type,
                          .text = part[2]->text,
                          .length = part[2]->length,
                          .number = part[4]->number});
}

static bool read_numbers(const machine *m, const node *tuple, int64_t *out, int *n) {
    const node *part[PB_MAX_DIMS];
    size_t count;
    if (!items(m, (uint32_t)(tuple - m->nodes), 0, PB_MAX_DIMS, part, &count))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (part[i]->kind != KIND_INT || part[i]->number < 0)
            return false;
        out[i] = part[i]->number;
    }
    *n = (int)count;
    return true;
}

/* (storage, offset, shape, strides, requires_grad, hooks [, metadata]) */
static pb_status rebuild_tensor(machine *m, uint32_t arguments) {
    const node *part[7];
    size_t n;
    int strides = 0;
    pb_pickled t = {0};
    if (!items(m, arguments, 6, 7, part, &n) || part[0]->kind != KIND_STORAGE || part[1]->kind != KIND_INT ||
        part[1]->number < 0 || !read_numbers(m, part[2], t.shape, &t.ndim) ||
        !read_numbers(m, part[3], t.strides, &strides) || strides != t.ndim)
        return wrong(m, "a tensor has no storage, offset, shape (of at most 8 axes) and strides");
    t.key = part[0]->text;
    t.key_length = part[0]->length;
    t.type = (pb_stored)part[0]->type;
    t.storage_count = part[0]->number;
    t.offset = part[1]->number;
    PB_TRY(grow(m, &m->tensors, &m->cap_tensors, m->n_tensors + 1, sizeof *m->tensors));
    m->tensors[m->n_tensors] = t;
    return push(m, (node){.kind = KIND_TENSOR, .first = (uint32_t)m->n_tensors++});
}

static pb_status reduce(machine *m) {
    uint32_t arguments = NONE, called = NONE;
    const node *part[4];
    size_t n;
    PB_TRY(pop(m, &arguments));
    PB_TRY(pop(m, &called));
    if (m->nodes[called].kind != KIND_FUNCTION)
        return wrong(m, "something is called that is no function");
    switch ((function)m->nodes[called].type) {
    case ORDERED_DICT:
        if (!items(m, arguments, 0, 0, part, &n))
            return wrong(m, "an OrderedDict is made of something");
        return push(m, (node){.kind = KIND_DICT});
    case REBUILD_TENSOR:
        return rebuild_tensor(m, arguments);
    case REBUILD_PARAMETER:
    case REBUILD_PARAMETER_WITH_STATE:
        if (!items(m, arguments, 3, 4, part, &n) || part[0]->kind != KIND_TENSOR)
            return wrong(m, "a parameter is made of no tensor");
        return push_again(m, (uint32_t)(part[0] - m->nodes));
    }
    return wrong(m, "an unknown function is called");
}

/* ---- containers ----------------------------------------------------------------------------------------------------------------- */

/* Everything above the last mark goes to `container`; the mark goes. */
static pb_status collect(machine *m, uint32_t container, size_t from) {
    for (size_t i = from; i < m->n_stack; i++)
        PB_TRY(append(m, container, m->stack[i]));
    m->n_stack = from;
    return PB_OK;
}

static pb_status pop_mark(machine *m, size_t *height) {
    if (!m->n_marks)
        return wrong(m, "a mark is missing");
    *height = m->marks[--m->n_marks];
    return PB_OK;
}

static pb_status make_container(machine *m, value_kind kind, size_t from) {
    PB_TRY(grow(m, &m->nodes, &m->cap_nodes, m->n_nodes + 1, sizeof *m->nodes));
    uint32_t made = (uint32_t)m->n_nodes++;
    m->nodes[made] = (node){.kind = (uint8_t)kind};
    if (kind == KIND_DICT && (m->n_stack - from) % 2 != 0)
        return wrong(m, "a dictionary has a key without a value");
    PB_TRY(collect(m, made, from));
    return push_again(m, made);
}

static pb_status make_from_mark(machine *m, value_kind kind) {
    size_t from = 0;
    PB_TRY(pop_mark(m, &from));
    return make_container(m, kind, from);
}

static pb_status make_tuple(machine *m, size_t n) {
    if (m->n_stack - floor_of(m) < n)
        return wrong(m, "a value is missing from the stack");
    return make_container(m, KIND_TUPLE, m->n_stack - n);
}

/* n values (0: from the mark on) go to the list or dictionary below them. */
static pb_status extend(machine *m, value_kind kind, size_t n) {
    size_t from = m->n_stack - n;
    if (!n)
        PB_TRY(pop_mark(m, &from));
    else if (m->n_stack - floor_of(m) < n)
        return wrong(m, "a value is missing from the stack");
    if (from <= floor_of(m) || m->nodes[m->stack[from - 1]].kind != kind)
        return wrong(m, kind == KIND_LIST ? "something is appended to what is no list"
                                          : "something is stored in what is no dictionary");
    if (kind == KIND_DICT && (m->n_stack - from) % 2 != 0)
        return wrong(m, "a dictionary has a key without a value");
    return collect(m, m->stack[from - 1], from);
}

/* An OrderedDict's attributes (a state dict has its versions there) say nothing about tensors. */
static pb_status build(machine *m) {
    uint32_t state = NONE, object = NONE;
    PB_TRY(pop(m, &state));
    PB_TRY(pop(m, &object));
    if (m->nodes[object].kind != KIND_DICT)
        return wrong(m, "a state is given to what is no dictionary");
    return push_again(m, object);
}

static pb_status put(machine *m, uint64_t place) {
    if (m->n_stack <= floor_of(m))
        return wrong(m, "a value is missing from the stack");
    if (place > m->size) /* each place takes an opcode */
        return wrong(m, "a memo has a place beyond any need");
    size_t old = m->n_memo;
    PB_TRY(grow(m, &m->memo, &m->n_memo, (size_t)place + 1, sizeof *m->memo));
    if (m->n_memo > old)
        memset(m->memo + old, 0, (m->n_memo - old) * sizeof *m->memo);
    m->memo[place] = m->stack[m->n_stack - 1] + 1;
    return PB_OK;
}

static pb_status get(machine *m, int bytes) {
    uint64_t place = 0;
    PB_TRY(take_number(m, bytes, &place));
    if (place >= m->n_memo || !m->memo[place])
        return wrong(m, "it asks for a value that was not kept");
    return push_again(m, m->memo[place] - 1);
}

static pb_status put_at(machine *m, int bytes) {
    uint64_t place = 0;
    PB_TRY(take_number(m, bytes, &place));
    return put(m, place);
}

/* ---- the machine ------------------------------------------------------------------------------------------------------------------- */

static pb_status push_int(machine *m, int bytes) {
    uint64_t value = 0;
    PB_TRY(take_number(m, bytes, &value));
    return push(m, (node){.kind = KIND_INT, .number = bytes == 4 ? (int32_t)(uint32_t)value : (int64_t)value});
}

static pb_status mark(machine *m) {
    PB_TRY(grow(m, &m->marks, &m->cap_marks, m->n_marks + 1, sizeof *m->marks));
    m->marks[m->n_marks++] = m->n_stack;
    return PB_OK;
}

static pb_status skip(machine *m, uint64_t bytes) {
    const unsigned char *ignored = NULL;
    return take(m, bytes, &ignored);
}

static pb_status protocol(machine *m) {
    uint64_t version = 0;
    PB_TRY(take_number(m, 1, &version));
    if (version < 2 || version > 5)
        return pb_fail(m->err, PB_ERR_UNSUPPORTED, "%s: pickle protocol %d is not known; known are 2 to 5", m->path,
                       (int)version);
    return PB_OK;
}

static pb_status discard(machine *m, bool to_mark) {
    uint32_t ignored = NONE;
    if (!to_mark)
        return pop(m, &ignored);
    return pop_mark(m, &m->n_stack);
}

static pb_status step(machine *m, unsigned opcode) {
    switch (opcode) {
    case 0x80: /* PROTO */
        return protocol(m);
    case 0x95: /* FRAME: lengths that are there for readers of streams */
        return skip(m, 8);
    case '(':
        return mark(m);
    case 'N':
        return push_again(m, NONE);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push(m, (node){.kind = KIND_BOOL, .number = opcode == 0x88});
    case 'J':
        return push_int(m, 4);
    case 'K':
        return push_int(m, 1);
    case 'M':
        return push_int(m, 2);
    case 0x8a: /* LONG1 */
        return push_long(m, 1);
    case 0x8b: /* LONG4 */
        return push_long(m, 4);
    case 'G':
        PB_TRY(skip(m, 8));
        return push(m, (node){.kind = KIND_FLOAT});
    case 'X':
        return push_text(m, KIND_TEXT, 4);
    case 0x8c: /* SHORT_BINUNICODE */
        return push_text(m, KIND_TEXT, 1);
    case 0x8d: /* BINUNICODE8 */
        return push_text(m, KIND_TEXT, 8);
    case 'B':
    case 'T':
        return push_text(m, opcode == 'T' ? KIND_TEXT : KIND_BYTES, 4);
    case 'C':
    case 'U':
        return push_text(m, opcode == 'U' ? KIND_TEXT : KIND_BYTES, 1);
    case 0x8e: /* BINBYTES8 */
        return push_text(m, KIND_BYTES, 8);
    case ')':
        return push(m, (node){.kind = KIND_TUPLE});
    case ']':
        return push(m, (node){.kind = KIND_LIST});
    case '}':
        return push(m, (node){.kind = KIND_DICT});
    case 't':
        return make_from_mark(m, KIND_TUPLE);
    case 'l':
        return make_from_mark(m, KIND_LIST);
    case 'd':
        return make_from_mark(m, KIND_DICT);
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
        return make_tuple(m, opcode - 0x84);
    case 'a':
        return extend(m, KIND_LIST, 1);
    case 'e':
        return extend(m, KIND_LIST, 0);
    case 's':
        return extend(m, KIND_DICT, 2);
    case 'u':
        return extend(m, KIND_DICT, 0);
    case 'b':
        return build(m);
    case 'c':
        return global_by_lines(m);
    case 0x93: /* STACK_GLOBAL */
        return global_by_stack(m);
    case 'R':
    case 0x81: /* NEWOBJ: for the classes known here the same */
        return reduce(m);
    case 'Q':
        return load_persistent(m);
    case 'q':
        return put_at(m, 1);
    case 'r':
        return put_at(m, 4);
    case 'h':
        return get(m, 1);
    case 'j':
        return get(m, 4);
    case '0':
        return discard(m, false);
    case '1':
        return discard(m, true);
    case '2':
        if (m->n_stack <= floor_of(m))
            return wrong(m, "a value is missing from the stack");
        return push_again(m, m->stack[m->n_stack - 1]);
    default:
        return pb_fail(m->err, PB_ERR_UNSUPPORTED, "%s: opcode 0x%02x at byte %zu of the pickle is not understood",
                       m->path, opcode, m->at - 1);
    }
}

static pb_status run(machine *m) {
    size_t memoized = 0;
    PB_TRY(push(m, (node){.kind = KIND_NONE}));
    m->n_stack = 0; /* node 0 stays */
    if (m->size < 2 || m->data[0] != 0x80)
        return wrong(m, "it does not begin with a protocol");
    for (;;) {
        if (m->at == m->size)
            return wrong(m, "it has no end");
        unsigned opcode = m->data[m->at++];
        if (opcode == '.')
            return PB_OK;
        if (opcode == 0x94) /* MEMOIZE: at the next place */
            PB_TRY(put(m, memoized));
        else
            PB_TRY(step(m, opcode));
        memoized += opcode == 0x94 || opcode == 'q' || opcode == 'r';
    }
}

/* ---- the state dict ------------------------------------------------------------------------------------------------------------------ */

static uint32_t look_up(const machine *m, uint32_t dict, const char *word) {
    for (uint32_t c = m->nodes[dict].first; c;) {
        const cell *key = &m->cells[c - 1], *value = &m->cells[key->next - 1];
        const node *text = &m->nodes[key->node];
        if (text->kind == KIND_TEXT && same(text->text, text->length, word))
            return value->node;
        c = value->next;
    }
    return NONE;
}

static pb_status read_dict(machine *m, uint32_t dict, pb_pickled *out) {
    size_t n = 0;
    for (uint32_t c = m->nodes[dict].first; c;) {
        const cell *key = &m->cells[c - 1], *value = &m->cells[key->next - 1];
        const node *name = &m->nodes[key->node], *tensor = &m->nodes[value->node];
        if (name->kind != KIND_TEXT)
            return pb_fail(m->err, PB_ERR_FORMAT, "%s: key %zu of the state dict is no text", m->path, n);
        if (memchr(name->text, 0, name->length))
            return pb_fail(m->err, PB_ERR_FORMAT, "%s: name %zu of the state dict has a zero byte", m->path, n);
        if (tensor->kind != KIND_TENSOR)
            return pb_fail(m->err, PB_ERR_UNSUPPORTED,
                           "%s: '%.*s' of the state dict is no tensor; save model.state_dict() alone", m->path,
                           name->length > 200 ? 200 : (int)name->length, name->text);
        out[n] = m->tensors[tensor->first];
        out[n].name = name->text;
        out[n++].name_length = name->length;
        c = value->next;
    }
    return PB_OK;
}

static pb_status read_top(machine *m, pb_pickled **out, size_t *n) {
    uint32_t top = NONE;
    m->n_marks = 0;
    PB_TRY(pop(m, &top));
    if (m->nodes[top].kind != KIND_DICT)
        return pb_fail(m->err, PB_ERR_UNSUPPORTED, "%s: it holds something else than a state dict (names and tensors)",
                       m->path);
    uint32_t inner = look_up(m, top, "state_dict");
    if (m->nodes[inner].kind == KIND_DICT)
        top = inner;
    *n = m->nodes[top].count / 2;
    *out = pb_alloc(m->ctx, *n, sizeof **out);
    if (!*out)
        return pb_fail_memory(m->err, m->ctx, *n * sizeof **out, "a state dict");
    pb_status status = read_dict(m, top, *out);
    if (status != PB_OK)
        pb_free(*out);
    return status;
}

pb_status pb_pickle_read(pb_context *ctx, const unsigned char *data, size_t size, const char *path, pb_pickled **out,
                         size_t *n, pb_error *err) {
    machine m = {.ctx = ctx, .path = path, .err = err, .data = data, .size = size};
    pb_pickled *tensors = NULL;
    size_t count = 0;
    pb_status status;
    if (size > PICKLE_MAX)
        status = pb_fail(err, PB_ERR_UNSUPPORTED,
                         "%s: a pickle of %zu bytes; at most %d are accepted (the tensors are "
                         "not part of it)",
                         path, size, PICKLE_MAX);
    else
        status = run(&m);
    if (status == PB_OK)
        status = read_top(&m, &tensors, &count);
    pb_free(m.nodes);
    pb_free(m.cells);
    pb_free(m.stack);
    pb_free(m.marks);
    pb_free(m.memo);
    pb_free(m.tensors);
    if (status == PB_OK) {
        *out = tensors;
        *n = count;
    }
    return status;
}
