// A host of MCP Apps as small as one can be: the reference bridge, and a frame without an origin of its own.
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";

window.heard = { given: [], sizes: [], calls: [] };

window.show = async (html, { context, capabilities, input }) => {
  const frame = document.getElementById("frame");
  const bridge = new AppBridge(null, { name: "a host", version: "1" }, capabilities, { hostContext: context });
  window.bridge = bridge;
  bridge.oncalltool = async (params) => {
    window.heard.calls.push(params.name);
    return window.callTool(params.name, params.arguments ?? {});
  };
  bridge.onupdatemodelcontext = async (params) => {
    if (window.refusesContext) throw new Error("not now");
    window.heard.given.push(params.content ?? []);
    return {};
  };
  bridge.onrequestdisplaymode = async ({ mode }) => ({ mode });
  bridge.onsizechange = ({ height }) => {
    window.heard.sizes.push(height);
    if (height) frame.style.height = `${height}px`;
  };
  const isReady = new Promise((ready) => {
    bridge.oninitialized = ready;
  });
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = html;
  await isReady;
  await bridge.sendToolInput({ arguments: input });
};
