"use strict";

// Timeline: a cursor that lists the events at its time; a click seeks the videos to that time.
(() => {
  const timeline = document.getElementById("timeline");
  if (!timeline) return;
  const duration = Number(timeline.dataset.duration);
  const cursor = timeline.querySelector(".cursor"), tip = timeline.querySelector(".tip");
  const track = timeline.querySelector(".track");
  const blocks = [...timeline.querySelectorAll(".block")].map((element) => ({
    element, name: element.textContent,
    start: parseFloat(element.style.left) / 100 * duration,
    end: (parseFloat(element.style.left) + parseFloat(element.style.width)) / 100 * duration,
  }));
  const clock = (t) => {
    const hours = Math.floor(t / 3600), minutes = Math.floor(t / 60) % 60;
    const seconds = (t % 60).toFixed(1).padStart(4, "0");
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
  };
  const timeAt = (event) => {
    const box = track.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * duration;
  };
  const leave = () => {
    cursor.hidden = tip.hidden = true;
    for (const block of blocks) block.element.classList.remove("on");
  };
  timeline.addEventListener("pointermove", (event) => {
    const t = timeAt(event), box = timeline.getBoundingClientRect();
    const inner = track.getBoundingClientRect();
    const x = inner.left - box.left + t / duration * inner.width;
    const now = blocks.filter((block) => block.start <= t && t <= block.end);
    for (const block of blocks) block.element.classList.toggle("on", now.includes(block));
    cursor.hidden = tip.hidden = false;
    cursor.style.left = `${x}px`;
    tip.textContent = [clock(t), ...now.map((block) => block.name)].join(" · ");
    const half = tip.offsetWidth / 2;
    tip.style.left = `${Math.min(box.width - half, Math.max(half, x))}px`;
  });
  timeline.addEventListener("pointerleave", leave);
  timeline.addEventListener("click", (event) => {
    for (const video of document.querySelectorAll("video")) {
      video.currentTime = Math.min(timeAt(event), Math.max(0, (video.duration || 0) - 0.01));
    }
  });
})();

// 3D viewer: points in WebGL 2 with eye-dome lighting. Without WebGL 2 the still remains.
(() => {
  const source = document.getElementById("scene"), viewer = document.getElementById("viewer");
  if (!source || !viewer) return;
  const scene = JSON.parse(source.textContent), canvas = viewer.querySelector("canvas");
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
  if (!gl) return;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
    a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => add([0, 0, 0], a, 1 / (Math.hypot(...a) || 1));
  const triple = (list, i) => list.slice(3 * i, 3 * i + 3);

  const program = (vertex, fragment) => {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, `#version 300 es\nprecision highp float;\n${text}`);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    const uniforms = {};
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(made, i);
      uniforms[name] = gl.getUniformLocation(made, name);
    }
    return { made, uniforms };
  };

  const points = program(`
    uniform mat4 clip; uniform vec3 low, extent, eye; uniform float size, focal; uniform bool facing;
    layout(location = 0) in vec3 position; layout(location = 1) in vec3 color;
    layout(location = 2) in vec2 square;
    out vec3 rgb;
    void main() {
      vec3 world = low + position * extent;
      vec3 n = vec3(square, 1. - abs(square.x) - abs(square.y));
      if (n.z < 0.) n.xy = (1. - abs(n.yx)) * vec2(n.x >= 0. ? 1. : -1., n.y >= 0. ? 1. : -1.);
      gl_Position = clip * vec4(world, 1.);
      // Cull back-facing points, so that the inside of a room is visible from outside.
      if (facing && dot(n, eye - world) < 0.) gl_Position = vec4(2., 2., 2., 1.);
      gl_PointSize = clamp(size * focal / gl_Position.w, 2., 28.);
      rgb = color;
    }`, `
    in vec3 rgb; out vec4 color;
    void main() {
      vec2 d = gl_PointCoord - .5;
      if (dot(d, d) > .25) discard;
      color = vec4(rgb, 1.);
    }`);

  const shade = program(`
    void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4. - 1., 0., 1.); }`, `
    uniform sampler2D colors, depths; uniform vec2 range; uniform float reach, height;
    out vec4 color;
    float logDepth(ivec2 p) {
      float d = texelFetch(depths, clamp(p, ivec2(0), textureSize(depths, 0) - 1), 0).r;
      return log2(range.x * range.y / (range.y - d * (range.y - range.x)));
    }
    void main() {
      ivec2 p = ivec2(gl_FragCoord.xy);
      float d = texelFetch(depths, p, 0).r;
      gl_FragDepth = d;
      if (d == 1.) {
        vec3 bottom = vec3(13., 14., 19.), top = vec3(30., 33., 42.);
        color = vec4(mix(bottom, top, gl_FragCoord.y / height) / 255., 1.);
        return;
      }
      float here = logDepth(p), sum = 0.;
      for (int y = -1; y <= 1; y++) for (int x = -1; x <= 1; x++)
        sum += clamp(here - logDepth(p + ivec2(vec2(x, y) * reach)), 0., .25);
      color = vec4(texelFetch(colors, p, 0).rgb * exp(-14. * sum / 8.), 1.);
    }`);

  const strokes = program(`
    uniform mat4 clip; layout(location = 0) in vec3 position;
    void main() { gl_Position = clip * vec4(position, 1.); gl_Position.z -= .0005 * gl_Position.w; }`, `
    uniform vec3 rgb; out vec4 color; void main() { color = vec4(rgb, 1.); }`);

  const upload = (data, location, parts, kind, normalized) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, parts, kind, normalized, 0, 0);
  };
  const cloud = gl.createVertexArray();
  gl.bindVertexArray(cloud);
  if (scene.count) {
    upload(new Uint16Array(bytes(scene.xyz).buffer), 0, 3, gl.UNSIGNED_SHORT, true);
    upload(bytes(scene.rgb), 1, 3, gl.UNSIGNED_BYTE, true);
    if (scene.normals) upload(new Int8Array(bytes(scene.normals).buffer), 2, 2, gl.BYTE, true);
  }
  const lines = (list) => {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    upload(new Float32Array(list), 0, 3, gl.FLOAT, false);
    return { array, count: list.length / 3 };
  };
  const path = lines(scene.path || []), frusta = lines(scene.frusta || []);
  const poses = (scene.path || []).length / 3;

  // Viewpoint as angles about the vertical axis, initially that of the still.
  const up = unit(scene.up);
  const first = add(scene.center, scene.eye, -1);
  const level = unit(add(first, up, -dot(first, up))), aside = cross(level, up);
  const start = {
    target: scene.center, distance: Math.hypot(...first),
    yaw: 0, pitch: Math.asin(Math.max(-1, Math.min(1, -dot(unit(first), up)))),
  };
  let view = { ...start }, flight = null, showCameras = true, touched = false, pending = false;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const turn = (yaw, pitch) => {
    const flat = add(add([0, 0, 0], level, Math.cos(yaw)), aside, Math.sin(yaw));
    return add(add([0, 0, 0], flat, Math.cos(pitch)), up, -Math.sin(pitch));
  };

  const camera = (aspect) => {
    if (flight !== null && poses > 1) {
      const at = flight * (poses - 1), i = Math.min(poses - 2, Math.floor(at)), s = at - i;
      const mix = (list) => add(add([0, 0, 0], triple(list, i), 1 - s), triple(list, i + 1), s);
      const tall = scene.half_height * Math.max(1, 1.2 / aspect);
      return { eye: mix(scene.path), forward: unit(mix(scene.forward)), above: mix(scene.upward),
        half: tall };
    }
    const forward = turn(view.yaw, view.pitch);
    // A tall window has the same horizontal field of view as the wide still.
    const half = Math.tan(Math.PI / 9) * Math.max(1, 1.5 / aspect);
    return { eye: add(view.target, forward, -view.distance), forward, above: up, half };
  };

  const frame = { buffer: gl.createFramebuffer(), width: 0, height: 0 };
  const resize = () => {
    const scale = Math.min(2, Math.max(1.5, devicePixelRatio || 1));
    const width = Math.max(2, Math.round(canvas.clientWidth * scale));
    const height = Math.max(2, Math.round(canvas.clientHeight * scale));
    if (width === frame.width && height === frame.height) return;
    Object.assign(frame, { width, height });
    canvas.width = width;
    canvas.height = height;
    const texture = (inner, outer, kind, unitNumber) => {
      const made = gl.createTexture();
      gl.activeTexture(gl.TEXTURE0 + unitNumber);
      gl.bindTexture(gl.TEXTURE_2D, made);
      gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, outer, kind, null);
      for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
        gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
      }
      return made;
    };
    for (const old of [frame.colors, frame.depths]) if (old) gl.deleteTexture(old);
    frame.colors = texture(gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, 0);
    frame.depths = texture(gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, 1);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame.buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, frame.colors, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, frame.depths, 0);
  };

  const draw = () => {
    resize();
    const { width, height } = frame, aspect = width / height;
    const { eye, forward, above, half } = camera(aspect);
    const right = unit(cross(forward, above)), top = cross(right, forward);
    const away = Math.hypot(...add(scene.center, eye, -1));
    const near = Math.max(scene.radius * 0.01, (away - 3 * scene.radius) * 0.5);
    const far = away + 12 * scene.radius;
    const row = (axis, s) => [axis[0] * s, axis[1] * s, axis[2] * s, -dot(axis, eye) * s];
    const x = row(right, 1 / (half * aspect)), y = row(top, 1 / half), w = row(forward, 1);
    const a = (far + near) / (far - near), b = -2 * far * near / (far - near);
    const z = w.map((value, i) => value * a + (i === 3 ? b : 0));
    const clip = [0, 1, 2, 3].flatMap((i) => [x[i], y[i], z[i], w[i]]);

    gl.bindFramebuffer(gl.FRAMEBUFFER, frame.buffer);
    gl.viewport(0, 0, width, height);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LESS);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (scene.count) {
      gl.useProgram(points.made);
      gl.uniformMatrix4fv(points.uniforms.clip, false, clip);
      gl.uniform3fv(points.uniforms.low, scene.low);
      gl.uniform3fv(points.uniforms.extent, scene.extent);
      gl.uniform3fv(points.uniforms.eye, eye);
      gl.uniform1f(points.uniforms.size, scene.size);
      gl.uniform1f(points.uniforms.focal, height / 2 / half);
      gl.uniform1i(points.uniforms.facing, scene.normals ? 1 : 0);
      gl.bindVertexArray(cloud);
      gl.drawArrays(gl.POINTS, 0, scene.count);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.depthFunc(gl.ALWAYS);
    gl.useProgram(shade.made);
    gl.uniform1i(shade.uniforms.colors, 0);
    gl.uniform1i(shade.uniforms.depths, 1);
    gl.uniform2f(shade.uniforms.range, near, far);
    gl.uniform1f(shade.uniforms.reach, Math.max(1, Math.round(width / canvas.clientWidth)));
    gl.uniform1f(shade.uniforms.height, height);
    gl.bindVertexArray(null);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.depthFunc(gl.LESS);
    if (showCameras && flight === null) {
      gl.useProgram(strokes.made);
      gl.uniformMatrix4fv(strokes.uniforms.clip, false, clip);
      for (const [set, kind, rgb] of [[frusta, gl.LINES, [.47, .75, 1]],
        [path, gl.LINE_STRIP, [1, .67, .24]]]) {
        if (!set.count) continue;
        gl.uniform3fv(strokes.uniforms.rgb, rgb);
        gl.bindVertexArray(set.array);
        gl.drawArrays(kind, 0, set.count);
      }
    }
  };
  const ask = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame((now) => {
      pending = false;
      step(now);
      draw();
    });
  };

  // Animation: a slow swing until the first interaction, and the flight on request.
  let began = null, visible = true, flightBegan = null;
  const flightMs = Math.min(20000, Math.max(5000, poses * 200));
  const step = (now) => {
    if (flight !== null) {
      flightBegan ??= now;
      flight = (now - flightBegan) / flightMs;
      if (flight >= 1) land();
      ask();
    } else if (!touched && !still && visible) {
      began ??= now;
      view.yaw = 0.22 * Math.sin((now - began) / 3200);
      ask();
    }
  };
  const flyButton = document.getElementById("view-fly");
  const land = () => {
    flight = flightBegan = null;
    flyButton.setAttribute("aria-pressed", "false");
  };
  flyButton.hidden = poses < 2;
  flyButton.addEventListener("click", () => {
    touched = true;
    if (flight !== null) land();
    else {
      flight = 0;
      flyButton.setAttribute("aria-pressed", "true");
    }
    ask();
  });
  document.getElementById("view-reset").addEventListener("click", () => {
    touched = true;
    land();
    view = { ...start };
    ask();
  });
  document.getElementById("view-cameras").addEventListener("click", (event) => {
    showCameras = !showCameras;
    event.target.setAttribute("aria-pressed", String(showCameras));
    ask();
  });

  const orbit = (dx, dy) => {
    view.yaw -= dx * 0.006;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + dy * 0.006));
  };
  const pan = (dx, dy) => {
    const forward = turn(view.yaw, view.pitch), right = unit(cross(forward, up));
    const scale = 2 * view.distance * Math.tan(Math.PI / 9) / canvas.clientHeight;
    view.target = add(add(view.target, right, -dx * scale), cross(right, forward), dy * scale);
  };
  const zoom = (factor) => {
    view.distance = Math.max(scene.radius * 0.05, Math.min(scene.radius * 20, view.distance * factor));
  };
  const touch = () => {
    touched = true;
    if (flight !== null) land();
  };
  const held = new Map();
  const spread = () => {
    const [a, b] = [...held.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, gap: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    touch();
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const before = held.size === 2 ? spread() : null;
    const dx = event.clientX - last.x, dy = event.clientY - last.y;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const after = spread();
      pan(after.x - before.x, after.y - before.y);
      zoom(before.gap / after.gap);
    } else if (event.shiftKey || event.buttons & 6) pan(dx, dy);
    else orbit(dx, dy);
    ask();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    // The page scrolls past the viewer until it has been clicked.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    touch();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.004));
    ask();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = {
      ArrowLeft: () => orbit(20, 0), ArrowRight: () => orbit(-20, 0), ArrowUp: () => orbit(0, 20),
      ArrowDown: () => orbit(0, -20), "+": () => zoom(0.9), "=": () => zoom(0.9),
      "-": () => zoom(1.1),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    touch();
    keys[event.key]();
    ask();
  });
  canvas.addEventListener("webglcontextlost", () => viewer.classList.remove("live"));
  new ResizeObserver(ask).observe(canvas);
  new IntersectionObserver((entries) => {
    visible = entries[0].isIntersecting;
    if (visible) ask();
  }).observe(canvas);
  viewer.classList.add("live");
  ask();
})();
