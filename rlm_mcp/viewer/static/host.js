// The host that shows this page inside a chat: messages to and from it (MCP Apps, JSON-RPC between frames), its colours
// and its size. The page sends nothing anywhere else.

const PROTOCOL = "2026-01-26";
const MOST_INLINE = 640; // pixels that the page takes between two messages of a chat; the rest is scrolled to
const LEAST_CONTRAST = 4.5; // WCAG AA
const MOST_GIVEN_CHARS = 20_000; // of all passages that the model is given

// Our tokens and the host's names for them.
const HOST_COLOURS = {
  "--paper": "--color-background-primary",
  "--wash": "--color-background-secondary",
  "--ink": "--color-text-primary",
  "--soft": "--color-text-secondary",
};
const HOST_FONTS = { "--sans": "--font-sans", "--mono": "--font-mono" };

class HostRefusal extends Error {}

class Host {
  constructor(name, listeners) {
    this.name = name;
    this.listeners = listeners; // onInput(arguments), onResult(result), onCancelled(reason), onContext()
    this.can = {};
    this.context = {};
    this.isGone = false;
    this.waiting = new Map();
    this.number = 0;
    window.addEventListener("message", (event) => {
      if (event.source === window.parent && event.data?.jsonrpc === "2.0") this.hear(event.data);
    });
  }

  async open(version) {
    const hello = await this.ask("ui/initialize", {
      protocolVersion: PROTOCOL,
      appInfo: { name: this.name, version },
      appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    });
    this.can = hello.hostCapabilities ?? {};
    this.take(hello.hostContext ?? {});
    this.tell("ui/notifications/initialized", {});
    new ResizeObserver(() => this.tellSize()).observe(document.getElementById("page"));
  }

  send(message) {
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  tell(method, params) {
    this.send({ method, params });
  }

  ask(method, params) {
    this.number += 1;
    const id = this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.send({ id, method, params });
    });
  }

  // Calls a tool of the server. Fails with the text that the tool gives for its error.
  async call(name, given) {
    const result = await this.ask("tools/call", { name, arguments: given });
    if (result.isError) throw new HostRefusal(textOfResult(result));
    return fieldsOfResult(result);
  }

  // What the model gets to know with the user's next message; each time instead of the time before.
  async giveToModel(text) {
    await this.ask("ui/update-model-context", { content: text ? [{ type: "text", text }] : [] });
  }

  get takesContext() {
    return Boolean(this.can.updateModelContext);
  }

  hear(message) {
    const { id, method, params } = message;
    if (method === undefined) {
      const waiter = this.waiting.get(id);
      this.waiting.delete(id);
      if (message.error) waiter?.reject(new HostRefusal(message.error.message ?? "the host refuses"));
      else waiter?.resolve(message.result ?? {});
    } else if (id !== undefined) {
      if (method === "ui/resource-teardown") this.isGone = true;
      if (method === "ping" || method === "ui/resource-teardown") this.send({ id, result: {} });
      else this.send({ id, error: { code: -32601, message: "this page has no such method" } });
    } else if (method === "ui/notifications/tool-input") this.listeners.onInput(params?.arguments ?? {});
    else if (method === "ui/notifications/tool-result") this.listeners.onResult(params ?? {});
    else if (method === "ui/notifications/tool-cancelled") this.listeners.onCancelled();
    else if (method === "ui/notifications/host-context-changed") this.take(params ?? {});
  }

  take(context) {
    Object.assign(this.context, context);
    const root = document.documentElement;
    if (this.context.theme === "light" || this.context.theme === "dark") root.dataset.theme = this.context.theme;
    root.dataset.mode = this.context.displayMode ?? "inline";
    wear(this.context.styles?.variables ?? {});
    const insets = this.context.safeAreaInsets;
    if (insets) document.body.style.padding = ["top", "right", "bottom", "left"].map((side) => `${Number(insets[side]) || 0}px`).join(" ");
    this.listeners.onContext();
    this.tellSize();
  }

  get isLarge() {
    return this.context.displayMode === "fullscreen";
  }

  async resize() {
    const { mode } = await this.ask("ui/request-display-mode", { mode: this.isLarge ? "inline" : "fullscreen" });
    this.take({ displayMode: mode });
  }

  get canResize() {
    return (this.context.availableDisplayModes ?? []).includes("fullscreen");
  }

  tellSize() {
    const { width, height } = document.getElementById("page").getBoundingClientRect();
    const most = Math.min(this.context.containerDimensions?.maxHeight ?? MOST_INLINE, MOST_INLINE);
    const size = { width: Math.ceil(width), height: this.isLarge ? Math.ceil(height) : Math.min(Math.ceil(height), most) };
    if (size.height === this.size?.height && size.width === this.size?.width) return;
    this.size = size;
    this.tell("ui/notifications/size-changed", size);
  }
}

// Takes on the host's colours and fonts. Colours only if all texts stay readable on them.
function wear(variables) {
  const { style } = document.documentElement;
  for (const [ours, theirs] of Object.entries(HOST_FONTS)) {
    const value = variables[theirs];
    if (typeof value === "string" && CSS.supports("font-family", value)) style.setProperty(ours, value);
  }
  const colours = Object.entries(HOST_COLOURS).filter(([, theirs]) => typeof variables[theirs] === "string" && CSS.supports("color", variables[theirs]));
  if (colours.length < Object.keys(HOST_COLOURS).length) return;
  for (const [ours, theirs] of colours) style.setProperty(ours, variables[theirs]);
  if (!isReadable()) for (const [ours] of colours) style.removeProperty(ours);
}

function isReadable() {
  const probe = document.body.appendChild(document.createElement("i"));
  const brightness = (token) => {
    probe.style.color = `var(${token})`;
    const found = /^rgb\((\d+), (\d+), (\d+)\)$/.exec(getComputedStyle(probe).color);
    if (!found) return null;
    const [red, green, blue] = found.slice(1).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const grounds = ["--paper", "--wash"].map(brightness);
  const texts = ["--ink", "--soft", "--accent", "--good", "--warn", "--bad"].map(brightness);
  probe.remove();
  if (grounds.includes(null) || texts.includes(null)) return false;
  return grounds.every((ground) => texts.every((text) => (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05) >= LEAST_CONTRAST));
}

// The fields of a result, which are metadata where the host would show its model both these and the text.
function fieldsOfResult(result) {
  return result._meta?.["rlm-mcp/fields"] ?? result.structuredContent ?? {};
}

function textOfResult(result) {
  return (result.content ?? []).map((part) => (part.type === "text" ? part.text : "")).join("\n");
}

// Where a link within the page leads is decided here: the address of a page in a frame belongs to the host.
function interceptLinks(go) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    go(link.getAttribute("href").slice(1), link);
  });
}
