// Search runs in a Worker, which browsers refuse to start for pages that are opened from a folder. There, this runs the
// worker's script in a hidden frame instead. Material looks for the name IFrameWorker.
(() => {
  if (location.protocol !== "file:") return;
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      addEventListener("message", ({ source, data }) => {
        if (source !== this.inner) return;
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      });
      const page = frame.contentDocument;
      const setup = page.createElement("script");
      setup.textContent = `
        postMessage = data => parent.postMessage(data, "*");
        importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, onload: done, onerror: failed });
          document.body.append(script);
        })), Promise.resolve());`;
      const script = page.createElement("script");
      this.ready = new Promise(done => { script.onload = done; });
      script.src = url;
      page.body.append(setup, script);
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })));
    }
    terminate() { this.inner.frameElement.remove(); }
  }
  window.IFrameWorker = window.Worker = IFrameWorker;
})();
