// What there is in the document that only markup from a record could have put there.
() => {
  const every = [...document.querySelectorAll("*")];
  const attributes = every.flatMap((node) => [...node.attributes]);
  const unseen = /[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const { data, parentElement } = walker.currentNode;
    if (parentElement.localName !== "script" && unseen.test(data)) texts += 1;
  }
  const loading = ["img", "iframe", "object", "embed", "base", "form", "video", "audio", "frame"];
  return {
    scripts: every.filter((node) => node.localName === "script").length,
    styles: every.filter((node) => node.localName === "style").length,
    loading: every.filter((node) => loading.includes(node.localName)).length,
    handlers: attributes.filter(({ name }) => name.startsWith("on")).length,
    links: attributes.filter(({ name, value }) => name === "href" && !/^(#[\w-]+|data:,)$/.test(value)).length,
    unseen: attributes.filter(({ value }) => unseen.test(value)).length + texts,
    pwned: window.pwned ?? null,
    main: getComputedStyle(document.querySelector("main")).display,
  };
}
