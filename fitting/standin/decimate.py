"""Edge collapse by quadric error (Garland and Heckbert, 1997) down to exact counts of vertices and of boundary vertices."""

import heapq

import numpy as np
from jaxtyping import Float64, Int64

Edge = tuple[int, int]

_MAX_DEGREE = 10
_MIN_NORMAL_COSINE = 0.15


class _Mesh:
    """A triangle mesh under collapse: faces by vertex, one quadric and one version number a vertex."""

    def __init__(self, vertices: Float64[np.ndarray, "n 3"], faces: Int64[np.ndarray, "m 3"]) -> None:
        self.vertices = vertices.copy()
        self.faces: list[tuple[int, int, int] | None] = [(int(a), int(b), int(c)) for a, b, c in faces]
        self.faces_of: list[set[int]] = [set() for _ in vertices]
        self.quadrics = np.zeros((len(vertices), 4, 4))
        self.version = [0] * len(vertices)
        self.alive = [True] * len(vertices)
        for i, face in enumerate(self.faces):
            assert face is not None
            quadric = self._plane_quadric(face)
            for v in face:
                self.faces_of[v].add(i)
                self.quadrics[v] += quadric
        self.on_boundary = [False] * len(vertices)
        for a, b in self.edges():
            if self.num_faces(a, b) == 1:
                self.on_boundary[a] = self.on_boundary[b] = True

    def _plane_quadric(self, face: tuple[int, int, int]) -> Float64[np.ndarray, "4 4"]:
        p, q, r = self.vertices[list(face)]
        normal = np.cross(q - p, r - p)
        area = float(np.linalg.norm(normal)) + 1e-15
        plane = np.append(normal / area, -(normal / area) @ p)
        return np.outer(plane, plane) * area

    def corners(self, face: int) -> tuple[int, int, int]:
        corners = self.faces[face]
        assert corners is not None
        return corners

    def neighbours(self, vertex: int) -> set[int]:
        return {u for i in self.faces_of[vertex] for u in self.corners(i)} - {vertex}

    def num_faces(self, a: int, b: int) -> int:
        return len(self.faces_of[a] & self.faces_of[b])

    def edges(self) -> list[Edge]:
        found = set()
        for face in self.faces:
            if face is not None:
                for a, b in ((face[0], face[1]), (face[1], face[2]), (face[2], face[0])):
                    found.add((min(a, b), max(a, b)))
        return sorted(found)

    def best_point(self, a: int, b: int) -> tuple[float, Float64[np.ndarray, "3"]]:
        """Cost and place of the vertex that replaces edge (a, b); a boundary vertex stays where it is."""
        quadric = self.quadrics[a] + self.quadrics[b]
        length = float(np.linalg.norm(self.vertices[a] - self.vertices[b]))
        middle = (self.vertices[a] + self.vertices[b]) / 2
        if self.on_boundary[a] != self.on_boundary[b]:
            point = self.vertices[a] if self.on_boundary[a] else self.vertices[b]
        else:
            matrix = quadric[:3, :3] + 1e-6 * np.trace(quadric[:3, :3]) / 3 * np.eye(3)
            point = middle - np.linalg.solve(matrix, quadric[:3, 3] + quadric[:3, :3] @ middle)
            if np.linalg.norm(point - middle) > length or self.on_boundary[a]:
                point = middle
        homogeneous = np.append(point, 1)
        return float(homogeneous @ quadric @ homogeneous) + 2e-7 * length**2 + 1e-4 * length**4, point

    def may_collapse(self, a: int, b: int, point: Float64[np.ndarray, "3"]) -> bool:
        """Whether the mesh stays manifold (link condition), no face turns over and no vertex gets too many neighbours."""
        around_a, around_b = self.neighbours(a), self.neighbours(b)
        if len(around_a & around_b) != self.num_faces(a, b):
            return False
        if self.on_boundary[a] and self.on_boundary[b]:
            return self.num_faces(a, b) == 1
        if len((around_a | around_b) - {a, b}) > _MAX_DEGREE and not (self.on_boundary[a] or self.on_boundary[b]):
            return False
        return not (self._turns_over(a, b, point) or self._turns_over(b, a, point))

    def _turns_over(self, moved: int, other: int, point: Float64[np.ndarray, "3"]) -> bool:
        for i in self.faces_of[moved]:
            face = self.corners(i)
            if other in face:
                continue
            p, q, r = (self.vertices[v] for v in face)
            before = _cross(q - p, r - p)
            p, q, r = (point if v == moved else self.vertices[v] for v in face)
            after = _cross(q - p, r - p)
            limit = _MIN_NORMAL_COSINE * np.sqrt((before @ before) * (after @ after))
            if before @ after <= limit:
                return True
        return False

    def collapse(self, a: int, b: int, point: Float64[np.ndarray, "3"]) -> None:
        """Put `a` at `point` and let it take over the faces of `b`."""
        for i in self.faces_of[a] & self.faces_of[b]:
            for v in self.corners(i):
                self.faces_of[v].discard(i)
            self.faces[i] = None
        for i in self.faces_of[b]:
            p, q, r = (a if v == b else v for v in self.corners(i))
            self.faces[i] = (p, q, r)
            self.faces_of[a].add(i)
        self.faces_of[b] = set()
        self.alive[b] = False
        self.vertices[a] = point
        self.quadrics[a] += self.quadrics[b]
        self.version[a] += 1

    def compact(self) -> tuple[Float64[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
        faces = np.array([f for f in self.faces if f is not None])
        used, renumbered = np.unique(faces, return_inverse=True)
        return self.vertices[used], renumbered.reshape(-1, 3).astype(np.int64)


def _cross(u: Float64[np.ndarray, "3"], v: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3"]:
    """Several times faster than np.cross on single vectors."""
    return np.array([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])


def _collapse_boundary(mesh: _Mesh, num_boundary: int) -> int:
    """Collapse the shortest boundary edges until `num_boundary` are left; the number of vertices removed."""
    boundary = [e for e in mesh.edges() if mesh.num_faces(*e) == 1]
    removed = 0
    while len(boundary) > num_boundary:
        boundary.sort(key=lambda e: (float(np.linalg.norm(mesh.vertices[e[0]] - mesh.vertices[e[1]])), e))
        a, b = next(e for e in boundary if len(mesh.neighbours(e[0]) & mesh.neighbours(e[1])) == 1)
        mesh.collapse(a, b, (mesh.vertices[a] + mesh.vertices[b]) / 2)
        renamed = [(a if p == b else p, a if q == b else q) for p, q in boundary if (p, q) != (a, b)]
        boundary = [(min(e), max(e)) for e in renamed]
        removed += 1
    return removed


def decimate(
    vertices: Float64[np.ndarray, "n 3"], faces: Int64[np.ndarray, "m 3"], *, num_vertices: int, num_boundary: int
) -> tuple[Float64[np.ndarray, "k 3"], Int64[np.ndarray, "l 3"]]:
    """The mesh with exactly `num_vertices`, `num_boundary` of them on its one open ring, still manifold."""
    mesh = _Mesh(vertices, faces)
    left = len(vertices) - _collapse_boundary(mesh, num_boundary)
    heap: list[tuple[float, int, int, int, int, tuple[float, ...]]] = []

    def push(a: int, b: int) -> None:
        a, b = min(a, b), max(a, b)
        if not (mesh.on_boundary[a] and mesh.on_boundary[b]):
            cost, point = mesh.best_point(a, b)
            heapq.heappush(heap, (cost, a, b, mesh.version[a], mesh.version[b], tuple(point.tolist())))

    while left > num_vertices:
        if not heap:
            for a, b in mesh.edges():
                push(a, b)
        _, a, b, version_a, version_b, place = heapq.heappop(heap)
        fresh = mesh.alive[a] and mesh.alive[b] and (mesh.version[a], mesh.version[b]) == (version_a, version_b)
        point = np.array(place)
        if not fresh or not mesh.may_collapse(a, b, point):
            continue
        kept, lost = (b, a) if mesh.on_boundary[b] else (a, b)
        mesh.collapse(kept, lost, point)
        left -= 1
        for u in sorted(mesh.neighbours(kept)):
            push(kept, u)
    return mesh.compact()
