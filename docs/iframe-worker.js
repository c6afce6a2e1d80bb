/* Search in pages opened from the disk: browsers start no Worker there, so the search's script runs in a hidden frame.
 *
 * Material for MkDocs would load such a stand-in from another host. It knows this one by `IFrameWorker`. */
"use strict";

class IFrameWorker extends EventTarget {
  constructor(address) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.inside = frame.contentWindow;
    this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.inside.importScripts = (...addresses) => addresses.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve());
    this.addEventListener("message", (event) => this.onmessage?.(event));
    this.ready = this.load(address);
  }

  load(address) {
    const script = this.inside.document.createElement("script");
    script.src = new URL(address, location.href).href;
    return new Promise((done, failed) => {
      Object.assign(script, { onload: done, onerror: () => failed(new Error(`cannot load ${script.src}`)) });
      this.inside.document.body.append(script);
    });
  }

  postMessage(data) {
    this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
  }

  terminate() {
    this.inside.frameElement.remove();
  }
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker = IFrameWorker;
